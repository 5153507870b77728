"""What an AWS account has to allow: python scripts/account.py policies [PATH=VALUE ...]"""

from breedlab.cli import run

if __name__ == "__main__":
    run("account")
