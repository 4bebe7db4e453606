"""The RPCs that are measured, by their paths."""

GET_USER = "/byline.v1.UserService/GetUser"
BATCH_GET_USERS = "/byline.v1.UserService/BatchGetUsers"
LIST_USERS = "/byline.v1.UserService/ListUsers"
UPDATE_USER = "/byline.v1.UserService/UpdateUser"
LIST_POSTS = "/byline.v1.PostService/ListPosts"
CREATE_POST = "/byline.v1.PostService/CreatePost"
TRANSFER = "/byline.v1.CreditService/Transfer"
