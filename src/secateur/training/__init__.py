"""The trainer under masks, the terms of its loss, and what it reads and keeps."""
