"""What callers may name among a page's files, and what a page may do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import pages
from shared.pages import PageFiles, kind_of, page_headers

HERE = Path(__file__).parent


@pytest.fixture
def files(tmp_path: Path) -> PageFiles:
    (tmp_path / "secret.js").write_text("not for callers")
    web = tmp_path / "web"
    (web / "built").mkdir(parents=True)
    for name in ("page.css", "package.json", ".hidden.js", "built/runtime.js", "built/runtime.wasm", "built/page.css"):
        (web / name).write_text(name)
    return PageFiles(folder=web)


def test_file_is_found_among_our_own_before_those_that_were_built(files: PageFiles) -> None:
    found = files.find("page.css")
    assert found is not None
    assert found.read_text() == "page.css"


def test_file_of_all_pages_is_found_where_a_server_has_none_of_its_own(tmp_path: Path) -> None:
    found = PageFiles(folder=tmp_path).find("page.css")
    assert found is not None
    assert kind_of(found).startswith("text/css")


@pytest.mark.parametrize(("name", "kind"), [("runtime.js", "text/javascript"), ("runtime.wasm", "application/wasm")])
def test_built_file_is_found_and_its_kind_is_one_that_browsers_run(files: PageFiles, name: str, kind: str) -> None:
    found = files.find(name)
    assert found is not None
    assert kind_of(found).startswith(kind)


@pytest.mark.parametrize(
    "name",
    ["", "built", "package.json", ".hidden.js", "../secret.js", "built/runtime.js", "..%2fsecret.js", "page.css\n"],
)
def test_anything_else_that_a_caller_names_is_not_there(files: PageFiles, name: str) -> None:
    assert files.find(name) is None


@given(st.text())
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    found = PageFiles(folder=HERE).find(name)
    assert found is None or found.parent in {HERE, Path(pages.__file__).parent / "web"}


def test_page_runs_scripts_from_its_own_server_alone() -> None:
    policy = page_headers()["Content-Security-Policy"].split("; ")
    assert "script-src 'self'" in policy
    assert "default-src 'none'" in policy
    assert not any("unsafe" in rule for rule in policy)


def test_page_that_compiles_webassembly_may_still_run_no_text_as_code() -> None:
    policy = page_headers(wasm=True)["Content-Security-Policy"]
    assert "'wasm-unsafe-eval'" in policy
    assert "'unsafe-eval'" not in policy
    assert "'unsafe-inline'" not in policy
