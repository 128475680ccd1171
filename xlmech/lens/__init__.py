"""See in which layers leakage shows: logit lens, tuned lens, direct logit attribution, similarity of languages."""
