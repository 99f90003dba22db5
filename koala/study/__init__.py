"""The realness study: how often are coloured pictures taken for photographs as they were?

Without torch, so that it runs on any web host. In the order of a study's life: `power` says how large it must be,
`build` makes its folder, `server` asks people, `report` says what was found.
"""
