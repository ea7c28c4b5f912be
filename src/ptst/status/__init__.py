"""What the cells of a grid are at: states from the store and the queue, and a view that goes on."""
