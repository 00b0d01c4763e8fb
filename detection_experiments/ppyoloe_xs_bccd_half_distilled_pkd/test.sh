#!/usr/bin/env bash
# ./test.sh [weights] [--split val]: evaluates weights (without a name: the newest run's best) as training did
exec "${PYTHON:-python}" -m public.test_scripts.evaluate "$(dirname "${BASH_SOURCE[0]}")" "$@"
