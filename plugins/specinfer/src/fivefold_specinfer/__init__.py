"""SpecInfer: token trees of one or several drafts, merged and verified in one pass."""
