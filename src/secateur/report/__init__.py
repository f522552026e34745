"""What a run, a model card and a comparison show; data comes in typed, pages and pictures go out."""

from secateur.system.moved import moved_names

__getattr__ = moved_names(
    __name__,
    {
        "Report": "secateur.report.report:Report",
    },
)
