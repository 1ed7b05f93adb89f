"""Several bundles as one: their graphs side by side, their probabilities averaged, everything measured anew."""
