"""Text that would do harm if it were taken for more than text."""

import re

#: Markdown, HTML, script, terminal codes, and characters that reorder or hide text.
HOSTILE = (
    "<script>alert(1)</script> goalkeeper saves {}",
    "![pixel](https://evil.example/{}.png) sunset over mountains",
    "[click here](javascript:alert(1)) minister explaining law {}",
    "</td></tr></table><img src=x onerror=alert(1)> rain {}",
    "| a | b | **bold** `code` {} # heading",
    "https://evil.example/{} www.evil.example dog barking",
)
CONTROL = ("\x1b[31mred\x1b[0m crowd cheering", "\u202edesrever violin solo", "null\x00 byte song")
#: What must never be linked, loaded or run.
EVIL = re.compile(r"evil\.example|javascript:", re.IGNORECASE)
