"""What makes and rehearses the product and is not part of it; run from the checkout."""
