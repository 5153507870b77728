"""What an account needs before breedlab works in it, as one CloudFormation template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from breedlab.backends.sagemaker import policies
from breedlab.backends.sagemaker.policies import Account

_KEPT_DAYS = 7
"""Days after which the parts of interrupted uploads are deleted; they are billed and no one sees
them."""


def template(
    account: Account, commands: list[str], role_name: str | None, bucket: str | None
) -> dict[str, Any]:
    """Return the template: bucket, execution role, the policy of users who launch, the role of a
    Lambda.

    Args:
        account: What policies name; account, region, bucket and role are CloudFormation's to fill
            in.
        commands: What users who launch may run.
        role_name: The execution role's name, None for one that CloudFormation makes up.
        bucket: The bucket's name, or None in the same case.
    """
    inside = replace(
        account,
        partition="${AWS::Partition}",
        region="${AWS::Region}",
        number="${AWS::AccountId}",
        bucket="${Bucket}",
        role="${ExecutionRole.Arn}",
    )
    resources = {
        "Bucket": {
            "Type": "AWS::S3::Bucket",
            # Runs and models outlive the stack.
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                **({"BucketName": bucket} if bucket else {}),
                "PublicAccessBlockConfiguration": dict.fromkeys(
                    (
                        "BlockPublicAcls",
                        "BlockPublicPolicy",
                        "IgnorePublicAcls",
                        "RestrictPublicBuckets",
                    ),
                    True,
                ),
                "LifecycleConfiguration": {
                    "Rules": [
                        {
                            "Id": "broken-off-uploads",
                            "Status": "Enabled",
                            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _KEPT_DAYS},
                        }
                    ]
                },
            },
        },
        "ExecutionRole": _role("sagemaker", policies.execution_role(inside, False), role_name),
        "UserPolicy": {
            "Type": "AWS::IAM::ManagedPolicy",
            "Properties": {
                "Description": (
                    "Permissions to launch breedlab; attach it to users, groups, or roles"
                ),
                "PolicyDocument": policies.user(inside, commands),
            },
        },
        "LambdaRole": _role("lambda", policies.lambda_function(inside), None),
    }
    if (pipeline := policies.pipeline_role(inside)) is not None:
        # Apart from the role: it passes itself, and a resource may not refer to itself.
        resources["PipelinePolicy"] = {
            "Type": "AWS::IAM::Policy",
            "Properties": {
                "PolicyName": "breedlab-pipeline",
                "PolicyDocument": pipeline,
                "Roles": ["${ExecutionRole}"],
            },
        }
    outputs = {
        "Role": {"Description": "backend.role, deploy --role", "Value": "${ExecutionRole.Arn}"},
        "BucketName": {"Description": "backend.bucket, deploy --bucket", "Value": "${Bucket}"},
        "UserPolicyArn": {
            "Description": "To attach to the users who launch",
            "Value": "${UserPolicy}",
        },
        "LambdaRoleArn": {
            "Description": "The role of a Lambda that calls the endpoint",
            "Value": "${LambdaRole.Arn}",
        },
    }
    tree = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "The bucket, roles and policies of breedlab",
        "Resources": resources,
        "Outputs": outputs,
    }
    filled: dict[str, Any] = _filled_in(tree)
    return filled


def _role(service: str, policy: dict[str, Any], name: str | None) -> dict[str, Any]:
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            **({"RoleName": name} if name else {}),
            "AssumeRolePolicyDocument": policies.trust(service),
            "Policies": [{"PolicyName": "breedlab", "PolicyDocument": policy}],
        },
    }


def _filled_in(tree: Any) -> Any:
    """Return a tree in which CloudFormation fills in what texts leave open."""
    if isinstance(tree, dict):
        return {key: _filled_in(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_filled_in(value) for value in tree]
    return {"Fn::Sub": tree} if isinstance(tree, str) and "${" in tree else tree
