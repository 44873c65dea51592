"""More than one process: torchrun starts them, torch.distributed carries what they tell each other."""
