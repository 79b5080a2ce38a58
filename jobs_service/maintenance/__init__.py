"""What keeps the promise when something was lost: one service a module, run by one elected leader."""
