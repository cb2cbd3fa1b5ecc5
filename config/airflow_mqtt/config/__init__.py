"""Settings: what may be set, where it is read, and what is wrong with it.

A *setting* is one declaration (`settings.Setting`): its name, what is allowed, its default. Flag, variable and key of
a file follow from the name. A *source* is where a value was found; `settings.resolve` says which one counts, and is
pure. `bridge` declares those of the bridge, since the executor reads some of them too. Those of the worker are the
worker's own. `broker_url` is what both need to reach a broker, `version` that of this distribution.

Nothing is written, and nothing races: settings are read once, at the start. A mistake is a `SettingError` with one
line that names the setting, the place and what is allowed. The process then ends before it has touched anything.
"""
