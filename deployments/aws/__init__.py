"""What an environment needs in an AWS account: CloudFormation, and a profile from its outputs."""
