"""What a run, a model card and a comparison show; data comes in typed, pages and pictures go out."""
