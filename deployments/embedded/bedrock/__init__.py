"""Amazon Bedrock's operations, shaped and checked by the service's own API model."""
