"""The router behind HTTP: `reelroute serve`.

Needs the extra `service`; nothing here is imported by `import reelroute`.
"""
