# SPDX-License-Identifier: LGPL-2.1-or-later
"""tools/news.py: fragments of news, and how they come into NEWS.md."""

from __future__ import annotations

from pathlib import Path

import pytest

import news
import tapster

OLD = "# News\n\n## 1.1\n\nThe second.\n\n* One.\n\n## 1.0\n\n* Zero.\n"


def test_all_fragments_are_as_news_wants_them() -> None:
    for path in news.fragments(news.FRAGMENTS):
        assert news.mistakes(path.read_text()) == [], path


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("", "one newline"),
        ("* No end", "one newline"),
        ("* Too much.\n\n", "one newline"),
        ("No item.\n", "line 1"),
        ("  Goes on, from nothing.\n", "it begins with"),
        ("* One.\n\n* Two.\n", "line 2"),
        (f"* {'x' * 87}\n", "longer than 88"),
    ],
)
def test_a_fragment_s_mistake_is_named(text: str, mistake: str) -> None:
    assert any(mistake in found for found in news.mistakes(text))


def test_items_go_to_the_end_of_the_version_s_section() -> None:
    assert news.collect(OLD, "1.1", ["* Two.\n", "* Three\n  and more.\n"]) == (
        "# News\n\n## 1.1\n\nThe second.\n\n* One.\n* Two.\n* Three\n  and more.\n"
        "\n## 1.0\n\n* Zero.\n"
    )
    assert news.collect("# News\n\n## 1.0\n\n* Zero.\n", "1.0", ["* One.\n"]) == (
        "# News\n\n## 1.0\n\n* Zero.\n* One.\n"
    )


def test_a_new_version_has_a_section_before_all_others() -> None:
    assert news.collect(OLD, "1.2", ["* Two.\n"]) == OLD.replace(
        "# News\n", "# News\n\n## 1.2\n\n* Two.\n"
    )


def test_without_fragments_nothing_changes() -> None:
    assert news.collect(OLD, "1.2", []) == OLD


def test_a_version_that_is_released_gets_no_more() -> None:
    with pytest.raises(ValueError, match=r"1\.0 is older than 1\.1"):
        news.collect(OLD, "1.0", ["* Late.\n"])


def test_the_version_is_the_one_of_the_source() -> None:
    source = Path(tapster.__file__).with_name("version.py").read_text()
    assert news.version_of(source) == tapster.__version__


def test_fragments_are_collected_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "news.d").mkdir()
    (tmp_path / "news.d" / "README.md").write_text("How.\n")
    (tmp_path / "news.d" / "b.md").write_text("* Second.\n")
    (tmp_path / "news.d" / "a.md").write_text("* First.\n")
    (tmp_path / "NEWS.md").write_text("# News\n")
    (tmp_path / "src" / "tapster").mkdir(parents=True)
    (tmp_path / "src/tapster/version.py").write_text('__version__ = "2.0"\n')
    monkeypatch.setattr(news, "ROOT", tmp_path)
    monkeypatch.setattr(news, "NEWS", tmp_path / "NEWS.md")
    monkeypatch.setattr(news, "FRAGMENTS", tmp_path / "news.d")
    assert news.main([]) == 0
    text = (tmp_path / "NEWS.md").read_text()
    assert text == "# News\n\n## 2.0\n\n* First.\n* Second.\n"
    assert [p.name for p in (tmp_path / "news.d").iterdir()] == ["README.md"]
