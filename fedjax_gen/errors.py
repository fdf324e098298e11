"""The one exception type for mistakes that a user can mend."""


class InputError(ValueError):
  """Something the user gave cannot be used; the message says what and why.

  Everything this library refuses before doing work raises it: arguments out
  of range, unreadable data files, a work directory of another run. The
  command-line binaries print its message without a traceback and exit with
  status 2; any other exception is a defect of the library.

  Example:
    >>> raise InputError('Expected alpha > 0, got alpha=-1.')
    Traceback (most recent call last):
    ...
    fedjax_gen.errors.InputError: Expected alpha > 0, got alpha=-1.
  """
