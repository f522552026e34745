"""One file a kind of task. A new kind is a new file here with `@register("name")`; nothing else changes."""
