"""What the API's description can't say, and what keeps the run on simulated claws.

Loaded by schemathesis (SCHEMATHESIS_HOOKS). A positive case is one whose data fits the
description; only there is anything made to fit further, so that more requests get past the
first check. Negative cases stay as they were generated.
"""

import itertools
import os

import schemathesis

IDS = os.environ["CLAWFARM_IDS"].split(",")
OPERATIONS = os.environ["CLAWFARM_OPERATIONS"].split(",")
count = itertools.count()


def positive(case):
    return case.meta is None or case.meta.generation.mode.value == "positive"


def streams(query):
    """Whether a query asks for a stream: these have tests of their own."""
    follow = (query or {}).get("follow")
    follow = follow[0] if isinstance(follow, list) and len(follow) == 1 else follow
    return follow is True or follow == "true"


@schemathesis.hook
def filter_case(ctx, case):
    return not streams(case.query) or positive(case)


@schemathesis.hook
def before_call(ctx, case, **kwargs):
    body = case.body
    if case.method == "POST" and case.path == "/api/v1/instances" and isinstance(body, dict):
        # Never a real claw. A name of the wrong form is left for the server to refuse.
        if body.get("target") is None or positive(case):
            body["target"] = "sim"
    if case.path.startswith("/api/v1/vm-images") and isinstance(body, dict):
        image = body.get("image")
        if isinstance(image, str) and image.startswith(("ubuntu:", "debian:")):
            # Nothing is fetched, nothing built, and nothing booted.
            body["image"] = "nobody:1"
    if not positive(case):
        return
    if case.method == "POST" and isinstance(body, dict):
        if case.path == "/api/v1/vm-images":
            # A file is named for one source alone, and read.
            body.update(image="nobody:1")
            body["from"] = "site"
            body.pop("file", None)
        if case.path == "/api/v1/vm-images/warm":
            body.update(image="nobody:1")
        if case.path == "/api/v1/instances":
            # Its rules are more than a schema can say: folders of the host, ports that are free.
            body.pop("vm", None)
        if case.path.endswith("/setup"):
            # One of its fields, and no instance here has such commands.
            body.clear()
            body["by_server"] = True
        if case.path.endswith("/console"):
            # Instead of a command, and no instance here has any.
            body.pop("setup", None)
        # No container engine is asked for anything: another target runs no images, another
        # runtime's targets can't be added. Which claw types there are stands in no schema.
        if case.path == "/api/v1/images":
            body.update(claw_type="openclaw", target="sim")
            # A package and a source exclude each other.
            for name in ("version", "source", "ref"):
                body.pop(name, None)
        if case.path == "/api/v1/images/pull":
            body.update(claw_type="openclaw", target="sim", image="clawfarm/openclaw:1")
        if case.path == "/api/v1/instances":
            # The simulated runtime runs none.
            body.pop("image", None)
        if case.path == "/api/v1/targets":
            body["runtime"] = "sim"
    tag = (case.headers or {}).get("if-match")
    if tag is not None and tag != "*" and not tag.startswith('"'):
        # Its coverage phase leaves the quotes out that the pattern asks for.
        case.headers["if-match"] = f'"{tag}"'
    query = case.query
    if case.path in ("/api/v1/images", "/api/v1/images/log") and query:
        # Its rules are more than a pattern can say.
        query.update(image="clawfarm/openclaw:1", target="sim")
    if case.path == "/api/v1/vm-images" and query:
        # A day is one of the calendar.
        query.update(image="nobody:1")
    if streams(query):
        del query["follow"]
    if query:
        # Only what the server itself gave is a cursor.
        query.pop("cursor", None)
        # Two values for one label contradict each other, which no schema can forbid.
        labels = query.get("label")
        if isinstance(labels, list):
            query["label"] = list({label.split("=")[0]: label for label in labels}.values())
    ids = OPERATIONS if case.path == "/api/v1/operations/{id}" else IDS
    every = 4 if case.method == "DELETE" else 1
    if "id" in (case.path_parameters or {}) and next(count) % (2 * every) == 0:
        case.path_parameters["id"] = ids[next(count) % len(ids)]
    if isinstance(body, dict) and case.path.endswith("/update"):
        # Which versions there are stands in no schema.
        body.pop("version", None)
    if isinstance(body, dict) and case.path.startswith("/api/v1/instances"):
        fit_spec(body)
    if isinstance(body, dict):
        fit_config(body)
    if case.path.startswith("/api/v1/secrets"):
        for given in (query, body):
            if isinstance(given, dict):
                fit_scope(given)
        if case.path.endswith("/rotate") and isinstance(body, dict):
            # A new value, or the one before: never both, and never neither.
            body["value"] = "of a test"
            body.pop("back", None)


def fit_scope(given):
    """A secret is a project's or an instance's, and then needs no scope."""
    given.pop("scope", None)
    if given.get("project") is not None:
        given.pop("instance", None)


def fit_config(body):
    """What a configuration may hold is more than its schema says: paths, places to fill in."""
    if "content" in body:
        body["content"] = {"body": {"env": {"A": f"{next(count)}"}}, "locks": ["env.B"]}
    for name in ("overrides", "variables"):
        if body.get(name) is not None:
            body[name] = {}
    if body.get("unset"):
        body["unset"] = ["env.A"]
    if isinstance(body.get("template"), str):
        # A layer of all instances has a configuration's name, too, and is no template.
        body["template"] = body["template"].removeprefix("project.")
    if "strategy" in body:
        body["strategy"] = {"parallel": 5, "steps": [{"to": 1}]}
    if "selector" in body:
        body["selector"] = {"labels": {"n": "1"}}


def fit_spec(body):
    """Makes a specification one that the simulated runtime can have."""
    if "claw_type" in body:
        body["claw_type"] = "openclaw"
        # Names come back as ids; one name of several claws would mean any of them.
        body["name"] = f"made-{next(count)}"
        body["runtime"] = "sim"
        for name in ("version", "dataset", "import"):
            body.pop(name, None)
    config = body.get("config")
    if isinstance(config, dict):
        # Of several empty objects it makes one, which is not to be changed everywhere.
        config = body["config"] = dict(config)
        # Which fields a provider wants, and that a secret exists, stand in no schema.
        for name in ("model", "providers", "channels", "gateway"):
            config.pop(name, None)
        # Neither does what a claw type takes for a name of an agent, a skill or a tool.
        for name in ("agents", "skills", "plugins", "tools", "proxy"):
            config.pop(name, None)
        inbox = config.get("inbox") or []
        config["inbox"] = [{"path": path["path"], "check": {"type": "open"}} for path in inbox]
        if config.get("native"):
            # Keys are never empty there, and no number is too large for what reads it.
            config["native"] = {"a": f"{next(count)}"}
        env = config.get("env") or {}
        config["env"] = {
            name: value
            for name, value in env.items()
            if isinstance(value, str) and not name.startswith(("OPENCLAW_", "CLAWFARM_"))
        }
