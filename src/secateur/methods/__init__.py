"""One file a paper. A new method is a new file here with `@register("name")`; nothing else changes."""
