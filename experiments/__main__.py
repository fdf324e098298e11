"""`python -m experiments NAME --flag=value ...`, the same as `fedjax-gen`."""

from fedjax_gen.studies.command.main import main

if __name__ == '__main__':
  main()
