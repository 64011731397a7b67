# The daemon itself on the demo model, with its adapters, behind a real gRPC client and graftctl.
if(TARGET graftd AND TARGET graftctl)
  add_test(NAME e2e_daemon COMMAND ${CMAKE_CURRENT_LIST_DIR}/run.sh test_daemon.py)
  set(e2e_daemon_environment "GRAFT_DAEMON=$<TARGET_FILE:graftd>"
    "GRAFT_CTL=$<TARGET_FILE:graftctl>")
  if(SANITIZE)
    list(APPEND e2e_daemon_environment "GRAFT_SANITIZED=${SANITIZE}")
  endif()
  set_tests_properties(e2e_daemon PROPERTIES TIMEOUT 900 SKIP_RETURN_CODE 77
    ENVIRONMENT "${e2e_daemon_environment}")
endif()
