"""`python -m jobs_service.cli`: the command `jobs`."""

from jobs_service.cli.app import main

main()
