"""Every setting: frozen dataclasses whose defaults a TOML file replaces, and flags after it; a module a package."""
