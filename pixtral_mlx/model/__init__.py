"""The paper: token ids and pixels in, logits out."""
