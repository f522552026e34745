"""What is on a page: its elements and its text."""

from collections import Counter
from html.parser import HTMLParser


class Reader(HTMLParser):
    """The elements of a page in order, as (name, attributes), and its text; no two elements have one id."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)
        named = Counter(attributes["id"] for _, attributes in self.elements if "id" in attributes)
        assert [name for name, count in named.items() if count > 1] == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def named(self, *names):
        return [attributes for name, attributes in self.elements if name in names]
