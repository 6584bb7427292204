from hub_fixture import hub, hub_server  # noqa: F401
