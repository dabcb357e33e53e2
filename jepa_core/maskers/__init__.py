"""Parts of maskers: rectangular blocks, several mask sets a sample, no masks, the masks of a step."""
