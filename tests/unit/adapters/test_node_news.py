"""The site's journals are news when they change, and only then."""

from __future__ import annotations

from pathlib import Path

from sovctl.adapters.run.node_news import NodeNews


def test_a_record_about_one_of_the_nodes_is_news_once(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    news = NodeNews(tmp_path)
    (tmp_path / "nodes" / "n001.jsonl").write_text("old\n")
    assert not news.about(["n001", "n002"])
    (tmp_path / "nodes" / "n002.jsonl").write_text("new\n")
    assert news.about(["n001", "n002"])
    assert not news.about(["n001", "n002"])
    (tmp_path / "nodes" / "n003.jsonl").write_text("of another node\n")
    assert not news.about(["n001", "n002"])
    (tmp_path / "watch.jsonl").write_text("a node is down\n")
    assert news.about(["n001"])


def test_a_site_without_journals_has_no_news(tmp_path: Path) -> None:
    news = NodeNews(tmp_path / "none")
    assert not news.about(["n001"])
    assert not news.about(["n001"])
