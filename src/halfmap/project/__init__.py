"""The job mechanism: parameters, folders, locks, events and the runner. It knows nothing of cryo-EM."""
