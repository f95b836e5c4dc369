"""What runs on AWS, and how it gets there."""
