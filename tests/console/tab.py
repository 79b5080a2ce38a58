"""A tab of a browser, which notes what the browser complains about."""

from urllib.parse import urlsplit

#: The largest page, in bytes (docs/console.md).
MAX_BYTES = 60_000


class Tab:
    """A page in a profile of its own. `page` is Playwright's."""

    def __init__(self, profile):
        self.profile = profile
        self.page = profile.new_page()
        #: Every message of the browser's console, every error of a script, and every request to another server.
        self.complaints = []
        #: The statuses of answers that the test expects to be errors.
        self.expected = set()
        #: Parts of messages that the test expects.
        self.expected_texts = set()
        self.page.on("console", self._on_message)
        self.page.on("pageerror", lambda error: self.complaints.append(f"{self.page.url}: {error}"))
        self.page.on("request", self._on_request)

    def open(self, path, *, status=200):
        """Go to a page, which has to answer with this status."""
        self.expected.add(status)
        answer = self.page.goto(path, wait_until="load")
        assert status == answer.status, (path, answer.status, answer.text()[:500])
        return self

    @property
    def path(self):
        """The path and the query of the page that is shown."""
        parts = urlsplit(self.page.url)
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    @property
    def text(self):
        """The text of the page's main part."""
        return self.page.locator("#main").inner_text()

    def _on_message(self, message):
        # The browser reports each answer with an error status, as "… status of 422 (…)".
        statuses = {f"status of {status} " for status in self.expected}
        if any(text in message.text for text in statuses | self.expected_texts):
            return
        self.complaints.append(f"{self.page.url}: {message.type}: {message.text}")

    def _on_request(self, request):
        if urlsplit(request.url).netloc != urlsplit(self.page.url).netloc and self.page.url != "about:blank":
            self.complaints.append(f"{self.page.url} asks {request.url}")


def check_page(open_tab, path, *, status=200):
    """Check what every page has to do: no barrier, no sideways scrolling, in both themes, narrow and wide, and small.

    `open_tab` is the fixture. Without scripts it has to show the same headings.
    """
    headings = []
    for dark in (False, True):
        tab = open_tab(path, status=status, dark=dark, width=320)
        for width in (320, 1280):
            tab.page.set_viewport_size({"width": width, "height": 800})
            assert not barriers(tab), (path, dark, width)
            assert width >= tab.page.evaluate("document.documentElement.scrollWidth"), (path, width)
            headings.append(tab.page.get_by_role("heading").all_inner_texts())
        # It would go on to look for news.
        tab.page.goto("about:blank")
    plain = open_tab(path, status=status, scripts=False)
    assert headings[-1] == plain.page.get_by_role("heading").all_inner_texts()
    assert MAX_BYTES > len(plain.page.content().encode()), path


def barriers(tab):
    """Return what axe-core finds on the page: the rule, what is wrong, and where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab.page).response["violations"]
    return [(item["id"], item["help"], [node["html"][:200] for node in item["nodes"][:5]]) for item in found]
