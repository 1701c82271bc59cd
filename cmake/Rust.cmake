# tenon_add_rust_staticlib(<target> <crate folder> [CRATE <name>])
#
# Builds a Rust crate of type staticlib with cargo, inside the build tree, and gives it as the imported target
# <target>. Cargo.lock decides every version; once `./dev setup` has fetched the crates, no network is needed.
# Link with -Wl,--exclude-libs,ALL so that the Rust runtime's symbols stay inside the plugin.
include_guard(GLOBAL)

set(TENON_CARGO_TARGET "" CACHE PATH "Where cargo builds; empty: in the build tree. Several build trees of one checkout may share it")
find_program(TENON_CARGO cargo HINTS ENV TENON_CARGO_DIR DOC "cargo, the Rust build tool")

function(tenon_add_rust_staticlib target crate_dir)
  cmake_parse_arguments(arg "" "CRATE" "" ${ARGN})
  if(NOT TENON_CARGO)
    message(FATAL_ERROR "cargo not found; run ./dev setup, or install Rust")
  endif()
  get_filename_component(crate_dir "${crate_dir}" ABSOLUTE)
  if(NOT arg_CRATE)
    file(STRINGS "${crate_dir}/Cargo.toml" name_line REGEX "^name *=" LIMIT_COUNT 1)
    string(REGEX REPLACE "^name *= *\"([^\"]+)\".*" "\\1" arg_CRATE "${name_line}")
  endif()
  string(REPLACE "-" "_" stem "${arg_CRATE}")
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/${target}_cargo")
  if(TENON_CARGO_TARGET)
    set(folder "${TENON_CARGO_TARGET}/${target}")
  endif()
  set(library "${folder}/release/lib${stem}.a")
  # The second rustc of a machine must not be mixed with the first cargo.
  get_filename_component(bin "${TENON_CARGO}" DIRECTORY)
  set(environment "CARGO_TARGET_DIR=${folder}")
  if(EXISTS "${bin}/rustc")
    list(APPEND environment "RUSTC=${bin}/rustc")
  endif()
  add_custom_command(
    OUTPUT "${library}"
    COMMAND "${CMAKE_COMMAND}" -E env ${environment} "${TENON_CARGO}" build --quiet --release --locked
            --manifest-path "${crate_dir}/Cargo.toml"
    DEPENDS "${crate_dir}/Cargo.toml" "${crate_dir}/Cargo.lock"
    DEPFILE "${folder}/release/lib${stem}.d"
    COMMENT "cargo build ${arg_CRATE}"
    VERBATIM)
  add_custom_target(${target}_build DEPENDS "${library}")
  add_library(${target} STATIC IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES IMPORTED_LOCATION "${library}")
  find_package(Threads REQUIRED)
  target_link_libraries(${target} INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
  add_dependencies(${target} ${target}_build)
  set(${target}_ENVIRONMENT "${environment}" PARENT_SCOPE)
endfunction()

# tenon_add_rust_test(<name> <crate folder> <staticlib target>): the crate's own tests, as one ctest test.
function(tenon_add_rust_test name crate_dir target)
  get_filename_component(crate_dir "${crate_dir}" ABSOLUTE)
  add_test(NAME ${name} COMMAND "${CMAKE_COMMAND}" -E env ${${target}_ENVIRONMENT} "${TENON_CARGO}" test --quiet --release
    --locked --manifest-path "${crate_dir}/Cargo.toml")
endfunction()
