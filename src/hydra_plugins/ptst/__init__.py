"""What Hydra finds of this project by itself: where sweeps/ is, and the sweeper behind `ptst
-m`."""
