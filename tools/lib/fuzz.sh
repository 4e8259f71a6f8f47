# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Builds and runs the fuzz targets of tests/fuzz, and QEMU's own device fuzzer.
# The inputs that earlier fuzzing found are in tests/fuzz/corpus, an archive for each target; what is
# found since, and findings, are in the cache folder. Reports go to $reports.

# shellcheck source=tools/lib/build-qemu.sh
. "$(dirname "${BASH_SOURCE[0]}")/build-qemu.sh"

# build_fuzz_targets KIND [MESON OPTION...]: sets build.
build_fuzz_targets() {
    local kind=$1
    shift
    need_packages "${host_packages[@]}" "${clang_packages[@]}"
    build_meson
    build=$(build_folder "$kind")
    with_clang setup_build "$kind" "$build" -Dfuzz=yes -Dtests=false -Dtools=disabled \
        -Db_lundef=false "$@"
    run_logged "$kind-build" ninja -C "$build"
}

# run_fuzz_targets [SECONDS [NAME...]]: all of them unless named; what they find interesting is
# kept for the next run, what they find wrong is shown.
run_fuzz_targets() {
    local seconds=${1:-60} build target
    say "building the fuzz targets"
    build_fuzz_targets fuzz -Db_sanitize=address,undefined
    say "running the fuzz targets for $seconds seconds each"
    local targets=("${@:2}")
    [ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(fuzz_target_names)
    for target in "${targets[@]}"; do
        unpack_corpus "$target" "$cache/fuzz/$target"
    done
    each_fuzz_target "$seconds" "$cache/fuzz" "${targets[@]}"
}

# replay_corpora BUILD: each target reads the inputs that earlier fuzzing found, of which it must have some.
replay_corpora() {
    local build=$1 target targets
    say "running the fuzz targets on their corpora"
    mapfile -t targets < <(fuzz_target_names)
    for target in "${targets[@]}"; do
        unpack_corpus "$target" "$reports/corpus/$target"
    done
    each_fuzz_target 0 "$reports/corpus" "${targets[@]}"
}

# each_fuzz_target SECONDS FOLDER TARGET...: of $build, as many at once as there are CPUs, with the
# inputs in FOLDER/TARGET; see fuzz_one.
each_fuzz_target() {
    local seconds=$1 folder=$2 target
    shift 2
    for target in "$@"; do
        printf 'fuzz.%s\n' "$target" >"$reports/fuzz-$target.expected"
        while [ "$(jobs -r | wc -l)" -ge "$jobs" ]; do wait -n; done
        fuzz_one "$target" "$seconds" "$folder/$target" -max_len=8192 -len_control=0 -rss_limit_mb=1024 -- \
            "$build/tests/fuzz/$target" &
    done
    wait
}

# The archive of a target that has none yet is made by save_corpora.
unpack_corpus() {
    mkdir -p "$2"
    [ ! -e "$top/tests/fuzz/corpus/$1.tar.xz" ] || tar -xf "$top/tests/fuzz/corpus/$1.tar.xz" -C "$2"
}

# Puts what the corpora in the cache folder reach, in as few and as short inputs, into the tree.
save_corpora() {
    local build target merged
    say "building the fuzz targets"
    build_fuzz_targets fuzz -Db_sanitize=address,undefined
    for target in $(fuzz_target_names); do
        merged=$reports/merged/$target
        mkdir -p "$merged"
        unpack_corpus "$target" "$cache/fuzz/$target"
        run_logged "$target-merge" "$build/tests/fuzz/$target" -merge=1 -max_len=8192 -timeout=60 \
            -rss_limit_mb=2048 "$merged" "$cache/fuzz/$target"
        (cd "$merged" && find . -type f -printf '%P\n' | LC_ALL=C sort |
            tar -cJ --owner=0 --group=0 --mtime=@0 -T - -f "$merged.tar.xz")
        mv "$merged.tar.xz" "$top/tests/fuzz/corpus/"
        say "$target: $(find "$merged" -type f | wc -l) inputs"
    done
}

fuzz_target_names() { basename -a "$top"/tests/fuzz/*_fuzz.cc | sed 's/\.cc$//'; }

# fuzz_one NAME SECONDS CORPUS OPTION... -- PROGRAM...: leaves a report like the other tests'.
# 0 seconds: what is in the corpus is read, and nothing else.
fuzz_one() {
    local name=$1 seconds=$2 corpus=$3 options=() length=-runs=0 outcome= status=0
    [ "$seconds" = 0 ] || length=-max_total_time=$seconds
    shift 3
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    local log=$cache/log/$name.log
    mkdir -p "$corpus" "$cache/fuzz"
    # libFuzzer stops an input that takes a minute, and itself when its time is over.
    ASAN_SYMBOLIZER_PATH=/usr/bin/llvm-symbolizer-19 \
        UBSAN_OPTIONS=print_stacktrace=1:symbolize=1 timeout --kill-after=10 $((seconds * 2 + 300)) \
        "$@" "$length" -timeout=60 -print_final_stats=1 -artifact_prefix="$cache/fuzz/$name-" "${options[@]}" "$corpus" \
        >"$log" 2>&1 || status=$?
    if [ "$status" != 0 ]; then
        tail -n 60 "$log" >&2
        outcome='<failure message="a finding; see the log"/>'
    elif grep -a 'runtime error' "$log" | grep -E "$fuzz_own_code" >&2; then
        outcome='<failure message="undefined behaviour; see the log"/>'
        status=1
    elif [ "$seconds" = 0 ] && [ -z "$(ls -A "$corpus")" ]; then
        outcome='<failure message="its corpus is empty"/>'
        status=1
    elif ! grep -aE '^Done [1-9][0-9]* runs' "$log" >/dev/null; then
        outcome='<failure message="it has read no input; see the log"/>'
        status=1
    fi
    say "$name: $(grep -aE 'cov: |^Done ' "$log" | tail -n 1)"
    printf '<testsuite><testcase classname="fuzz" name="%s">%s</testcase></testsuite>\n' \
        "$name" "$outcome" >"$reports/fuzz-$name.xml"
    printf '%s\n' "$status" >"$reports/fuzz-$name.status"
}
# In QEMU's log there may be findings of its own.
fuzz_own_code='hw/rdma/ours|/(backend|hw)/(roce|common|pvrdma|virtio-rdma)/'

# Lines of the core that each target's corpus reaches.
run_fuzz_coverage() {
    local build name reached
    say "building the fuzz targets for coverage"
    # Meson's own trial programs are instrumented, too.
    LLVM_PROFILE_FILE=$reports/setup.profile \
        build_fuzz_targets coverage "-Dcpp_args=-fprofile-instr-generate -fcoverage-mapping" \
        -Dcpp_link_args=-fprofile-instr-generate
    for name in $(fuzz_target_names); do
        unpack_corpus "$name" "$cache/fuzz/$name"
        LLVM_PROFILE_FILE=$reports/$name.raw "$build/tests/fuzz/$name" -runs=0 "$cache/fuzz/$name" \
            >"$cache/log/$name-coverage.log" 2>&1 || die "$name fails on its own corpus"
        llvm-profdata-19 merge -sparse "$reports/$name.raw" -o "$reports/$name.profile"
        reached=$(fuzz_report "$name" "$reports/$name.profile" | awk '/^TOTAL/ { print $10 }')
        say "$name: $reached of the core's lines"
    done
    llvm-profdata-19 merge -sparse "$reports"/*.raw -o "$reports/all.profile"
    fuzz_report sequence_fuzz "$reports/all.profile" >"$cache/log/fuzz-coverage.log"
    awk '$1 ~ /\.(cc|h)$|^TOTAL/ { print $10, $1 }' "$cache/log/fuzz-coverage.log"
    say "functions that no target reaches: $cache/log/fuzz-coverage-functions.log"
    fuzz_report sequence_fuzz "$reports/all.profile" -show-functions 2>/dev/null |
        awk '$NF == "0.00%" || /^File/ || ($7 != "" && $7 == "0.00%")' \
            >"$cache/log/fuzz-coverage-functions.log"
}
# fuzz_report NAME PROFILE [OPTION...]: llvm-cov's table for the core. Of the verbs backend, the rest of which needs an
# RDMA device, what reads messages and states.
fuzz_report() {
    local name=$1 profile=$2
    shift 2
    llvm-cov-19 report "$build/tests/fuzz/$name" -instr-profile="$profile" "$@" "$top"/backend/*.{cc,h} \
        "$top"/backend/{roce,verbs/{cm_message,mux_protocol,peer_messages,state_fields}.*} \
        "$top"/{hw,migration}
}

# run_qemu_fuzz [SECONDS]: two devices on one hub; the fuzzer's accesses go to
# ours and their cards' share is left to QEMU's own tests of those.
run_qemu_fuzz() {
    local seconds=${1:-600} qemu_kind=fuzz
    with_lock qemu build_qemu
    local arguments="-machine q35 -nodefaults ${qemu_firmware[*]}" slot
    for slot in 5 6; do
        arguments+=" -netdev hubport,hubid=1,id=n$slot"
        arguments+=" -device vmxnet3,netdev=n$slot,addr=$slot.0,multifunction=on"
        arguments+=" -device pvrdma,addr=$slot.1"
    done
    say "running QEMU's device fuzzer for $seconds seconds"
    # QEMU's own leaks at its end are not what is looked for.
    QEMU_FUZZ_ARGS=$arguments QEMU_FUZZ_OBJECTS='pvrdma*' ASAN_OPTIONS=detect_leaks=0 \
        fuzz_one qemu-generic-fuzz "$seconds" "$cache/fuzz/qemu-generic-fuzz" -max_len=4096 \
        -rss_limit_mb=4096 -detect_leaks=0 -- "$qemu_binary" --fuzz-target=generic-fuzz
}
