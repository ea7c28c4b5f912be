"""Bring W&B up to what `ptst.dashboard.definition` says, with as little as that takes.

What W&B has is looked up by name and compared; only what differs is sent, under the id that it has.
What the app adds of its own is no difference; what somebody changed by hand in what is defined here
is one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from ptst.dashboard.definition import Dashboard, View, chart_variables, view_variables
from ptst.dashboard.panels import CHART_ROWS
from ptst.errors import PtstError
from ptst.progress import say
from ptst.tracking import check_key

VIEW = """
    query View($entity: String!, $project: String!, $type: String!, $name: String!) {
        project(name: $project, entityName: $entity) {
            allViews(viewType: $type, viewName: $name) {
                edges { node { id name displayName description spec } }
            }
        }
    }
"""
"""As the package's own query of a workspace, with the view's name and description."""
PEOPLES = ("authors", "discussionThreads", "panelSettings")
"""In the spec of a report, what people and the app write there."""


def send(dashboard: Dashboard) -> dict[str, tuple[str, str]]:
    """Make the workspace and the report of a sweep, or bring them up to date.

    Returns:
        "workspace", "report" -> ("made", "updated" or "unchanged", its address).

    Raises:
        ConfigError: there is no key; nothing was asked or sent.
        PtstError: W&B has no such project, or refuses; what was sent before stays.
    """
    check_key("ptst dashboard", "take output=json, which prints what would be sent")
    if dashboard.runs > CHART_ROWS:
        say(
            f"{dashboard.runs} runs, and W&B reads {CHART_ROWS} for a chart: its heat maps will lack some; "
            "the report's tables have all."
        )
    import wandb
    from wandb_workspaces._graphql import get_app_url

    with _refusals(f"look up {dashboard.entity}/{dashboard.project}"):
        api = wandb.Api()
        there = {
            view.type: _look_up(api, dashboard, view)
            for view in (dashboard.workspace, dashboard.report)
        }
    if not any(found and dashboard.chart_id in found["spec"] for found in there.values()):
        _make_chart(api, dashboard)
    app = f"{get_app_url(api).rstrip('/')}/{dashboard.entity}/{dashboard.project}"
    done = {}
    for what, view in (("workspace", dashboard.workspace), ("report", dashboard.report)):
        found = there[view.type]
        how, id = "unchanged", found["id"] if found else ""
        if found is None or not _is_up_to_date(found, view):
            how, id = ("updated" if found else "made"), _upsert(api, dashboard, view, found)
        done[what] = how, f"{app}{_address(view, id)}"
    return done


def _look_up(api: Any, dashboard: Dashboard, view: View) -> dict[str, Any] | None:
    from wandb_workspaces._graphql import execute_graphql

    answer = execute_graphql(
        api,
        VIEW,
        {
            "entity": dashboard.entity,
            "project": dashboard.project,
            "type": view.type,
            "name": view.name,
        },
    )
    project = answer.get("project")
    if project is None:
        raise PtstError(
            f"W&B has no project {dashboard.entity}/{dashboard.project} that this key can see: bring the "
            f"sweep's runs there first (ptst sync +sweeps=... tracking.entity={dashboard.entity} "
            f"tracking.project={dashboard.project}), or name another (tracking.entity, tracking.project)."
        )
    nodes = [edge["node"] for edge in project["allViews"]["edges"]]
    return next((node for node in nodes if node["name"] == view.name), None)


def _is_up_to_date(found: dict[str, Any], view: View) -> bool:
    said = found["displayName"], found["description"] or ""
    return said == (view.title, view.description) and _holds(json.loads(found["spec"]), view.spec)


def _holds(theirs: Any, ours: Any) -> bool:
    """Whether what W&B has says all that ours says; a key more is the app's own."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(
            name in theirs and (name in PEOPLES or _holds(theirs[name], value))
            for name, value in ours.items()
        )
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(theirs) == len(ours) and all(map(_holds, theirs, ours))
    return bool(theirs == ours)


def _upsert(api: Any, dashboard: Dashboard, view: View, found: dict[str, Any] | None) -> str:
    from wandb_workspaces._graphql import execute_graphql
    from wandb_workspaces.reports.v2 import gql

    spec = dict(view.spec)
    if found:
        there = json.loads(found["spec"])
        spec |= {name: there[name] for name in PEOPLES if name in spec and name in there}
    variables = view_variables(dashboard, view) | {"spec": json.dumps(spec)}
    with _refusals(f"{'update' if found else 'make'} {view.title!r}"):
        answer = execute_graphql(
            api, gql.upsert_view, variables | ({"id": found["id"]} if found else {})
        )
    id: str = answer["upsertView"]["view"]["id"]
    return id


def _make_chart(api: Any, dashboard: Dashboard) -> None:
    """Charts cannot be looked up or changed; one of the same name is the same."""
    wanted = chart_variables(dashboard)
    with _refusals(f"make the chart {dashboard.chart_id}", there_already=True):
        api.create_custom_chart(
            entity=wanted["entity"],
            name=wanted["chartName"],
            display_name=wanted["displayName"],
            spec_type=wanted["chartType"],
            access=wanted["access"].lower(),
            spec=wanted["spec"],
        )


def _address(view: View, id: str) -> str:
    if view.type == "project-view":
        return f"?nw={view.name.removeprefix('nw-').removesuffix('-v')}"
    return f"/reports/{quote(view.title.replace(' ', '-'))}--{id.rstrip('=')}"


@contextmanager
def _refusals(what: str, there_already: bool = False) -> Iterator[None]:
    """W&B's errors as ours; `there_already`: but not that what is to be made is there."""
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        yield
    except WandbApiFailedError as error:
        status = error.response.http_status if error.response else None
        if not there_already or not (status == 409 or "already exists" in str(error)):
            raise PtstError(f"W&B does not {what}: {error}") from error
    except wandb.Error as error:
        raise PtstError(f"W&B does not {what}: {error}") from error
