"""The one exception for mistakes that a user can fix."""


class UserError(ValueError):
    """A mistake in a configuration, a data set or a call; its message names the value and the next step.

    The ``ldmi`` command prints it as one line, without a traceback.
    """
