"""Stages of an audit that measure what ablation and gates do."""
