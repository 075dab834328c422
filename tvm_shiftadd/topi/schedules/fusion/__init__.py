"""What fused kernels of every target share: what belongs to one, and what it is made with."""
