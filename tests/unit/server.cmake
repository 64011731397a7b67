if(WITH_SERVER)
  graft_test(server_test unit/server_test.c server rpc proto text)
endif()
