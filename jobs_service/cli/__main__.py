"""`python -m jobs_service.cli`: the command `jobs`."""

from jobs_service.cli.app import main

if __name__ == "__main__":
    main()
