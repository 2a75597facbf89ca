"""The page's files: what is served, to whom, under which policy."""

import json
import re
from html.parser import HTMLParser

import httpx
import pytest
from starlette.applications import Starlette

from server.admission.api_keys import ApiKeys
from server.admission.bodies import BodyLimits
from server.admission.gate import Gate
from server.admission.middleware import Admission, Door
from server.admission.under_way import UnderWay
from server.playground.files import playground_paths, playground_routes

APP = Starlette(routes=playground_routes())


def client(app: object = APP) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://page")  # type: ignore[arg-type]


async def test_every_file_is_served_under_a_strict_policy() -> None:
    async with client() as asking:
        for path in playground_paths():
            response = await asking.get(path)
            assert response.status_code == 200, path
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
            assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_file_that_the_browser_has_is_not_sent_again() -> None:
    async with client() as asking:
        tag = (await asking.get("/")).headers["etag"]
        again = await asking.get("/", headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert (await asking.get("/", headers={"if-none-match": '"another"'})).status_code == 200


async def test_the_page_is_open_and_nothing_else_is() -> None:
    door = Door.of(
        ApiKeys(["a-secret-of-some-length"]),
        BodyLimits(1000, 4, 1.0, 2000),
        Gate(1, 1),
        UnderWay(None, 5.0),
        also_open=playground_paths(),
    )
    async with client(Admission(APP, door)) as asking:
        for path in playground_paths():
            assert (await asking.get(path)).status_code == 200, path
            assert (await asking.post(path)).status_code == 401, path
        for path in ("/v1/models", "/playground", "/playground/", "/playground/../v1/models", "/playground/more.js"):
            assert (await asking.get(path)).status_code == 401, path


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.named: set[str] = set()
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.named |= {value for name, value in attributes if name in ("src", "href") and value}
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        self.inline += ["script"] if tag == "script" and "src" not in given else []
        self.inline += [tag] if tag == "style" else []


async def test_the_page_names_only_its_own_files_and_holds_nothing_inline() -> None:
    async with client() as asking:
        page = _Page()
        page.feed((await asking.get("/")).text)
        own = {name for name in page.named if not name.startswith("#")}
        assert {f"/{name}" for name in own} <= playground_paths()
        assert page.inline == []
        scripts = [path for path in playground_paths() if path.endswith(".js")]
        for path in scripts:
            text = (await asking.get(path)).text
            for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
                assert risky not in text, (path, risky)
            for imported in re.findall(r'from "\./([^"]+)"', text):
                assert f"/playground/{imported}" in playground_paths(), (path, imported)
        assert {f"playground/{path.rpartition('/')[2]}" for path in scripts} <= own, "a module that is not preloaded"


@pytest.mark.parametrize("name", ["drr", "full"])
async def test_the_recorded_examples_are_whole(name: str) -> None:
    async with client() as asking:
        response = await asking.get("/playground/examples.json")
    assert len(response.content) < 150_000
    for trace in json.loads(response.text):
        (run,) = [run for run in trace["runs"] if run["name"] == name]
        kinds = [kind for _, kind, _ in run["events"]]
        assert {"reasoning", "step", "content", "finish", "account", "usage"} <= set(kinds), trace["title"]
        times = [ms for ms, _, _ in run["events"]]
        assert times == sorted(times)
        assert isinstance(run["right"], bool)
        (account,) = [value for _, kind, value in run["events"] if kind == "account"]
        (usage,) = [value for _, kind, value in run["events"] if kind == "usage"]
        counts = [account[f"{kind}_tokens"] for kind in ("thinking", "answer", "discarded", "probe")]
        assert sum(counts) == usage["completion_tokens"], trace["title"]
