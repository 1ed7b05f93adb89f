"""A radiograph without its patient: PS3.15's basic profile, by a list of what may stay and not of what must go.

`dataset.deidentify` does it; `profile` is the list; `pseudonyms` makes UIDs, names and shifts of dates from a key;
`pixels` and `burned_in` tell which films are held back, because what must go may lie in the picture itself.
"""
