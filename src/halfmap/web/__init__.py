"""The server of `halfmap live`: live sessions, jobs and maps in the browser."""
