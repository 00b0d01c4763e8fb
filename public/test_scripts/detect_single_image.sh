#!/usr/bin/env bash
# detect_single_image.sh <experiment folder or run> <image> [weights] [--score_threshold 0.4] [--output FILE]
exec "${PYTHON:-python}" -m public.test_scripts.detect_single_image "$@"
