"""The stacks on AWS and their deployment."""
