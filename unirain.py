"""The command `unirain`, outside the package, which takes seconds to import: Ctrl-C meanwhile is one line too."""

import sys


def main() -> None:
    try:
        from modeling_unirain import cli
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
