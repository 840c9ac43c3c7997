"""Events of users: recorded durably, and the history of a query with a user."""
