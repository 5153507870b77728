"""Upload images to S3: python scripts/upload.py DATA s3://BUCKET/FOLDER"""

from breedlab.cli import run

if __name__ == "__main__":
    run("upload")
