"""AWS on this machine: moto's server with the Bedrock operations that it lacks.

`deployments.embedded.aws.EmbeddedAws` runs it inside a process (tests);
`python -m deployments.embedded up` runs it in the background (the demo).
"""
